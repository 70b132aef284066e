//! What only this part can see.
