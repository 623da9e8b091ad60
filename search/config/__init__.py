"""YAML and overrides become a frozen RunConfig, checked at the edge."""
