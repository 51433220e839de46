library(ncdf4)

file <- nc_open("a1.nc")
response <- ncvar_get(file, "response") # neuron, time, rep, stim
site <- ncvar_get(file, "site")
sound <- ncvar_get(file, "sound")

rate <- response[site == "DRX006b", , , sound == "geese"] / 0.01 # spikes/s
cat(sprintf("%.4f\n", mean(rate, na.rm = TRUE)))
