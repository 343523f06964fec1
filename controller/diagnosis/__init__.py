"""What is wrong between the store, the kernels and BGP: values in, findings out; no input or output."""
