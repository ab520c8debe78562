//! Balancers: what they see, what they may ask for, the built-in policies. Pure: values in, values
//! out, so that the emulator and a simulator call the same code.

pub mod view;
