"""The 2-D nnU-Net and the noise levels that suit a data set."""
