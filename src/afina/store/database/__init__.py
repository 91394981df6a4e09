"""SQLite or PostgreSQL: address, engine, tables, transactions, errors. Knows no version."""
