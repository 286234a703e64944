"""From a checked spec to text: visitors over guards, view-models, templates, files."""
