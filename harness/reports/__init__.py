"""Sheets and how they are drawn. All arithmetic is in the sheet."""
