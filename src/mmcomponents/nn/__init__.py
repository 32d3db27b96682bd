"""What the parts are made of: attention, feed-forward blocks, rotation, stochastic depth, the chunked loss."""
