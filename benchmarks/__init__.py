"""What netseq does in a second, beside what other tools do with the same files on the same machine in the same run."""
