"""What the entry points share; imports public names of flax_depthmup only."""
