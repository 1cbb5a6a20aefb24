"""Pure functions of arrays that know no layer: convolutions and pools, their forms, and the policy that chooses."""
