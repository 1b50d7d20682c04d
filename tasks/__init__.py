"""The stages of a rehearsal: policy in the files here, the work in the packages below."""
