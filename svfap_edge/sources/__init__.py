"""Where frames come from: files, pictures, cameras, URLs, pushed frames."""
