"""What several kinds of client send and expect, a file each: JSON to texts, answers to JSON. They know no web."""
