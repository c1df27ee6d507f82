"""One round: who trains, on what, what goes over the wire, local training and the server's step."""
