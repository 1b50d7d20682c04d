"""Reading, splitting and saving rows."""
