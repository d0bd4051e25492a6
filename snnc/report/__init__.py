"""What a compile reports: rows of a ledger as text and JSON, and a page of everything."""

from .html import page
from .ledger import Ledger, Row, change, percent, worst

__all__ = ["Ledger", "Row", "change", "page", "percent", "worst"]
