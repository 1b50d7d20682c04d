"""Throwaway servers, and the client that asks them."""
