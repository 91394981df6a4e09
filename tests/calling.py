"""Chat templates with tools, in the forms of Hermes and of Llama 3, whose prompts are short."""

_TEMPLATE = (
    "{% if tools %}<tools>{% for t in tools %}{{ t.function.name }} {% endfor %}{% endif %}"
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}"
    "{% for c in m.tool_calls or [] %}CALL{% endfor %}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
_JSON = """{{ '{"name": "' + c.function.name + '", "KEY": ' }}{{ c.function.arguments | tojson }}{{ '}' }}"""
CALLING = _TEMPLATE.replace(
    "CALL", "{{ '\\n' if m.content or not loop.first }}<tool_call>{{ '\\n' }}CALL{{ '\\n' }}</tool_call>"
).replace("CALL", _JSON.replace("KEY", "arguments"))
LLAMA = _TEMPLATE.replace("CALL", _JSON.replace("KEY", "parameters"))
