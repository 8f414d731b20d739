"""What people look at: charts, and the page of a run or of a comparison."""
