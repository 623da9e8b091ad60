"""Delivery of results: finalists, exports, best-config files, and checks of exported models."""
