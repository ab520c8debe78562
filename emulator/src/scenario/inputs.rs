//! traces of a scenario (being written)
