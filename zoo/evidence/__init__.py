"""The papers' experiments, rerun: runs, measures, claims, verdicts and the page that shows them."""
