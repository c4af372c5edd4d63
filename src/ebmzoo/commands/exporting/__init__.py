"""`ebmzoo export`: a function of a trained model as a file that other programs run."""
