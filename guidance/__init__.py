"""The mathematics: what a person draws and says, the attention it steers, the saliency it aims at. Knows no node."""
