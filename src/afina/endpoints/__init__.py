"""A model behind an API: prompts, requests, kept answers, budgets and costs.

A server is asked with OpenAI's protocols for chats or completions. The package does not know methods, training,
studies, stores and afina's own server, and can be imported without torch.
"""
