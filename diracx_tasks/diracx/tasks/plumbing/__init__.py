"""The machinery of DiracX tasks. Imports point up the list in the README, and a test holds them to it."""
