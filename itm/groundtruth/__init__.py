"""The true ranking: fine-tuning trials, their records and tables of accuracies."""
