"""Scripts for developers; not packaged."""
