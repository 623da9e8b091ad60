"""What the service keeps: passages and their embeddings, questions, answers, feedback, switches and API keys."""
