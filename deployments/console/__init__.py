"""What people look at: reports of the stages in, charts and pages out. It computes no score."""
