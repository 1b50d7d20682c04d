"""Throwaway servers, and the clients that send requests to them."""
