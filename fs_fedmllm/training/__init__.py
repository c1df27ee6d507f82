"""A client's turn: encoding, the local trainer, the regulariser, the schedules."""
