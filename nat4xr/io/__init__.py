"""Plumbing: from the files of the release to converted files. Nothing here is public."""
