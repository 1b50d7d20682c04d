"""The report for people: its pictures, its tables and its page."""
