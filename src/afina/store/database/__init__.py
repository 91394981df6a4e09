"""SQLite or PostgreSQL: address, tables, transactions, errors, migrations. Knows no version."""
