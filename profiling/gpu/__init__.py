"""`python -m profiling --gpu`: all that is to be measured on a GPU, within given minutes."""
