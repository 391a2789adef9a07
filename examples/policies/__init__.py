"""Example rules and terms. The keys that sign them are published here, so they prove nothing to anybody."""
