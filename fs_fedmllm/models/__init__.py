"""Any multimodal language model behind one loader, its federated tensors and its frozen vision features."""
