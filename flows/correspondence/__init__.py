"""What people are told: letters to data subjects, notices to recipients, exceptions claimed."""

__all__ = ["known_since", "letters_sent"]
