"""The only code that changes who holds which address: read, plan, commit as one transaction, again on a conflict."""
