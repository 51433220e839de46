if exist("OCTAVE_VERSION", "builtin"), pkg load netcdf, end
file = "a1.nc";
response = ncread(file, "response");         % neuron, time, rep, stim
site = deblank(cellstr(ncread(file, "site")'));    % one text for each neuron
sound = deblank(cellstr(ncread(file, "sound")'));  % one text for each stim

rate = response(strcmp(site, "DRX006b"), :, :, strcmp(sound, "geese")) / 0.01;  % spikes/s
fprintf("%.4f\n", mean(rate(~isnan(rate))))
