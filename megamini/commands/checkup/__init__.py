"""What tools/doctor.py checks."""
