//! ZoneFs: the zone filesystem's client, the one place where a DEK meets data.
