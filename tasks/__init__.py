"""The stages of a rehearsal: the modules here hold the policy, and the packages below do the work."""
