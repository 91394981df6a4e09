"""How the tables came to be, a file a step. Knows no store; read by Alembic."""
