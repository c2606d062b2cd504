"""What is done with a trained model: it is opened, evaluated, asked, recalibrated and exported."""
