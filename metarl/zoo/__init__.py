"""Small meta-parameter files that this project trained; beside each, a JSON file with the command that made it and its scores."""
