"""Contact sheets: pictures of network files × strengths × prompts, as a grid, a page and on the screen."""
