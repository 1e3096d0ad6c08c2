"""What trainings and analyses would cost on machines that are not here."""
