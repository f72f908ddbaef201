"""Commands for those who change the gateway: ``python -m tools.NAME``. Not part of the wheel."""
