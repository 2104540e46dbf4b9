"""The stream: samples, who owns them, and the minibatches that each rank gets."""
