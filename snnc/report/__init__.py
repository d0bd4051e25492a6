"""What a compile reports: rows of a ledger as text and JSON."""

from .ledger import Ledger, Row, change, percent, worst

__all__ = ["Ledger", "Row", "change", "percent", "worst"]
