"""Results side by side: samples, ratios with intervals, four verdicts, and what differs."""
