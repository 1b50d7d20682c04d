"""The production server: how it is started, what it answers, and the changes that can be made to it."""
